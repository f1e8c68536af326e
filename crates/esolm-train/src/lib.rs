//! Training of the Eso-LM family (arXiv 2506.01928) on any Burn device.
