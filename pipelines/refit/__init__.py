"""A strategy trained again on train and val together, for the number of steps that its runs chose."""
