"""Measurements beside peers: each module states its hypothesis and has ``main(arguments)``; results/ keeps figures."""

import logging

# transformers imports torchao, which remarks on kernels for devices that are not there; in spawned processes too
for name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)
