"""Hard-addressed memory: slots and banks that are read by one choice, and the gradients of a choice."""
