"""An archive's ONNX graph into the lowered graph of `wcodec.infer.graph`."""
