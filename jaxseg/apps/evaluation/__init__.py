"""What evaluation is made of: scores of each image, studies, charts, reports, submissions."""
