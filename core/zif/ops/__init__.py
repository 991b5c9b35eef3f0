"""The ops of the contract, a file a family: float64 references, conformance cases, tolerances."""
