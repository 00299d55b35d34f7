"""AIMNet2 from a YAML definition, for one fidelity or for several."""
