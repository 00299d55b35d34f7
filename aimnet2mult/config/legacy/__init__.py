"""Translation of the original trainer's settings, model definitions and weights.

All knowledge of the original trainer is in this subpackage; the rest of the code sees only the current format.
Settings with the same meaning are translated silently, settings without effect are listed in one notice together with
their replacement, and settings that would silently change the training are errors. None of the modules imports torch.
"""
