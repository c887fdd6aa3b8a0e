"""What both training scripts share: the state and folder of a run, its examples and scores."""
