"""What runs encoders: engines of other libraries, made of PyTorch's networks. One module for each."""
