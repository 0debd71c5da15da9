"""Files that data sets are made of: lists, folders, class names, and what is wrong with them."""
