"""The timeline explorer: predictions and labels of videos over frame numbers, as a page that works offline."""
