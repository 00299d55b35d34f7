"""What becomes of the parts of the original trainer that are not settings: commands, data, and its Python modules."""

from aimnet2mult.config.legacy.rule import Rule

__all__ = ["RULES"]

RULES = (
    Rule("`python -m aimnet2mult.train.cli`", "translated", "`aimnet2mult train`"),
    Rule(
        "`train.cli` on several GPUs",
        "absent",
        "a process uses one GPU; `torchrun --nproc-per-node=N -m aimnet2mult.train.cli …` uses N",
    ),
    Rule(
        "`train.cli data.fidelity_datasets.0=FILE`",
        "absent",
        "relative to the working directory, not to the folder of the first `--config`",
    ),
    Rule("`train.cli` without `--model`", "absent", "the model of aimnet, smaller than the default of the original"),
    Rule("`train.cli` without `--save`", "absent", "the weights are in the checkpoints of the run folder"),
    Rule("`python -m aimnet2mult.train.calc_sae`", "translated", "`aimnet2mult calc-sae`"),
    Rule("`calc_sae` without `--samples`", "absent", "all structures are used, not 100,000 at random"),
    Rule("`calc_sae`, outliers", "absent", "fitted to the residuals of the first fit, as in aimnet"),
    Rule(
        "`python -m aimnet2mult.tools.compile_jit`",
        "translated",
        "`aimnet2mult export`; with a dispersion correction, `PREFIX_fidN.pt` in aimnet's format instead of `.jpt`",
    ),
    Rule("`compile_jit --weights`", "error", "weights of the original: train with `--load` first, or use its own tool"),
    Rule(
        "`compile_jit --{model,sae,num-fidelities,fidelity-offset,use-fidelity-readouts}`",
        "error",
        "stored with the weights; other values than those of the training are an error",
    ),
    Rule("`compile_jit --dispersion d4`", "error", "not implemented, as in the original"),
    Rule(
        "`compile_jit --dispersion-functional`",
        "translated",
        "published parameters of D3(BJ); for `wb97x`, s8 is 0.2641 instead of 0; `m062x` is an error",
    ),
    Rule("`PREFIX_fidN_meta.yaml` of `compile_jit`", "absent", "the exported file contains the metadata"),
    Rule("`python -m aimnet2mult.tools.create_fake_data`", "absent", "`aimnet2mult sample-data`"),
    Rule(
        "data sets of `create_fake_data`",
        "error",
        "some atoms are closer than 0.3 Å; `data.on_bad_structure=skip` leaves these structures out",
    ),
    Rule("folders of `NNN.npz`", "translated", "read like HDF5; `NNN` is the number of atoms"),
    Rule("groups with different sets of arrays", "error", "write NaN for labels that a group lacks"),
    Rule("checkpoints with more than weights", "error", "extract the weights (see [Weights](#weights))"),
    Rule(
        "`aimnet2mult.calculators.*`", "absent", "`aimnet2mult.load_model`, or aimnet's calculators for exported files"
    ),
    Rule("`aimnet2mult.{data,models,train}.*` in Python", "absent", "use the commands"),
    Rule("curves `lr_0`, `lr_1`, …", "absent", "`train/lr`"),
)
