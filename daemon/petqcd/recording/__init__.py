"""What a run keeps beside its result: everything that crossed a wire, readings, configuration, as one bundle."""
