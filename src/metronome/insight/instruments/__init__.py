"""What TensorBoard shows beside the metrics of a module: each a callback of its own, measured at log points."""
