"""A segmenter as ONNX graphs, and a segmenter whose steps are such graphs."""
