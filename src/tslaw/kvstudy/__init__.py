"""What compressed KV caches change, from measurements alone: no surface is fitted.

Three questions, each a module of pure functions on arrays: does compression advance the accuracy-versus-memory frontier
(`advance`), where does eviction stop beating rounding (`kinds`), and does any choice of tokens beat a random one
(`control`). `configurations` turns datasets into one table of memory and accuracy, `bootstrap` holds the uncertainty.
"""
