"""What turns the pixels of a patch into labels of cells and nuclei."""
