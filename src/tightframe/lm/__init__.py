"""Tokens to trained models, and anyone's model behind one interface.

`interface` is the way in: what a batch is, and what every room to the right asks of a model.
`transformer` and `encoder_decoder` are our networks, `huggingface` puts those of others behind the
interface, and `hub` loads any of them. `runs` holds a training's settings and its directory,
`schedule` the rate of each step, `loop` the training itself, and `optimizer` the states that it
resumes from. Facts are injected by the same loop, see `knowledge`.
"""
