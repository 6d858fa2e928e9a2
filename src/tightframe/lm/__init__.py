"""Tokens to trained models, and anyone's model behind one interface.

`interface` is the way in: what a batch is, and what every room to the right asks of a model.
`transformer` and `encoder_decoder` are our networks, `huggingface` puts those of others behind the
interface, and `hub` loads any of them. A training goes `recipes` (its settings), `schedule` (what
happens at which step), `training` (what is learnt), `loop` (how), `runs` (where it is kept),
`resume` (how it goes on); facts are injected by the same loop, see `knowledge`.
"""
