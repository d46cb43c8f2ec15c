"""Interventions on heads, one concept per file: editors with an exact identity setting, and the reader they start from.

CaptureHeads      head outputs z of one run, for use in another
ReplaceHeads      z of chosen heads becomes given values (patching; mean and resample ablation in `ablate_heads`)
ScaleHeads        z of every head times a gate (0 is ablation; gates may carry gradients)
BlendHeads        z moves towards given values by a share that may carry gradients (attribution)
FrozenPatterns    samples attend as another sample of the batch does (pattern-preserving ablation)
UniformAttention  chosen heads attend to all visible keys alike
"""
