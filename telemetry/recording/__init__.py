"""The recording side: open a run, publish metrics, write them to the journal."""
