"""From a trained model and a target to weighted, unique fused operators.

``onnx_model`` looks at the file, ``importer`` runs the compiler's front half, ``workload`` names
what it found, ``target`` settles what it is for. The compiler, ONNX and ONNX Runtime are imported
inside functions: importing this package is cheap.
"""
