"""Tokens to trained models, and anyone's model behind one interface.

`interface` is the way in: what a batch is, and what every room to the right asks of a model.
`transformer` and `encoder_decoder` are our networks, `huggingface` puts those of others behind the
interface, and `load` loads any of them. `options` holds a training's settings and the rate of each
step, `runs` its directory, `training` the loop itself, and `optimizer` the states that it resumes
from. Facts are injected by the same loop, see `knowledge`.
"""
