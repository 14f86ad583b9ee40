"""What methods are called with, computed from one recorded forward: gradients, scores, attention, biases."""
