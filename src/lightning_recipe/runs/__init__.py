"""What needs several fits, and the share of the training data that each of them gets."""
