"""Training networks: from images with labels to an ONNX file that a backend runs."""
