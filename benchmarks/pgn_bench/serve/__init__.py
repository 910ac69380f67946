"""A page that measures a phone: the exported graphs in its browser, by onnxruntime-web."""
