"""The files of data sets: lists, folders, class names, and how their errors are reported."""
