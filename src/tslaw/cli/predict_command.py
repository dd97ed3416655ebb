"""`tslaw predict`: the accuracy of a size that nobody ran."""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
import typer

from tslaw.cli.options import AsJson, FitFile, Task, posteriors


def command(
    fit: FitFile,
    params: Annotated[float, typer.Option(help="Parameters of the model, for example 7e6.", show_default=False)],
    token_budget: Annotated[list[int], typer.Option(help="Thinking tokens; may be repeated.", show_default=False)],
    weight_bits: Annotated[float, typer.Option(help="Bits per linear weight, 2 to 16.")] = 16,
    kv_policy: Annotated[
        str, typer.Option(help="KV cache: full, quantized:4, rkv:2048, ...; kinds that the fit holds.")
    ] = "full",
    task: Task = None,
    as_json: AsJson = False,
) -> None:
    """Predict the mean accuracy of a model of the fitted family at any size, weight bits and token budget.

    The interval includes what is unknown about the surface and the misfit a new arm may have. For example:

    `tslaw predict fits/ladder.nc --params 7e6 --weight-bits 8 --token-budget 256`

    Of compressed KV caches only a fit made with `tslaw fit --compressed-kv` can say something; kept tokens may be any
    number then, bits 2 to 15 (`quantized:6`), and the interval includes what such a cache may cost one model more than
    another.
    """
    from tslaw.fit.posterior import marked
    from tslaw.fit.predict import predict_accuracy
    from tslaw.policy import ANY_BITS, parse_kv_policy

    policy = parse_kv_policy(kv_policy, ANY_BITS)
    answers: list[dict[str, Any]] = []
    for posterior in posteriors(fit, task):
        draws = predict_accuracy(posterior, params, weight_bits, np.array(token_budget, float), policy=policy)
        for budget, column in zip(token_budget, draws.T, strict=True):
            low, middle, high = np.quantile(column, [0.05, 0.5, 0.95])
            answers.append(
                {
                    "task": posterior.task,
                    "approximate": posterior.approximate,
                    "params": params,
                    "weight_bits": weight_bits,
                    "kv_policy": str(policy),
                    "token_budget": budget,
                    "accuracy": float(middle),
                    "interval": [float(low), float(high)],
                }
            )
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    kv = "" if kv_policy == "full" else f"KV cache {policy}, "
    for a in answers:
        task = marked(a["task"], a["approximate"])
        print(
            f"{task}, {params:.3g} parameters, {weight_bits:g} bits, {kv}{a['token_budget']} tokens: "
            f"accuracy {a['accuracy']:.3f}, 90% interval [{a['interval'][0]:.3f}, {a['interval'][1]:.3f}]"
        )
