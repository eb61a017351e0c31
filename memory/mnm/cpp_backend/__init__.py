"""The fast core's passes and step in C++, built on first use: float32 on the CPU."""
