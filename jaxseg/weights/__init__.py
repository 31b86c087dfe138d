"""Weights of encoders from elsewhere: files of other frameworks are read here, and nothing in them is trusted.

`files` reads tensors by name, `names` says which of them is which parameter, `imported` puts both together, `stored` is
the encoder checkpoint of this project, and `calibration` gives folded weights their batch norm back.
"""
