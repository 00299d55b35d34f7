"""AIMNet2 from a YAML definition, for one or several fidelities."""
