"""The made data set: faces drawn by the program, with labels known exactly."""
