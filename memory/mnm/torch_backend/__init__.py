"""The fast core's passes and step in plain tensor operations: any device, any dtype."""
