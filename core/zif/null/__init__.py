"""The null backend: a device that computes nothing, for tests of everything above a device.

It is a plugin like any other (``--device null``). It keeps the time of an asynchronous device and
the rules of the contract: it refuses buffers that it was never given, arrays that were donated
away or overwritten, and it poisons the staging buffers of runs that have completed.
"""
