"""Heads that fetch from far away: retrieval heads and streaming heads, by six methods, and how far these agree."""

from circuits.retrieval.agreement import agreement
from circuits.retrieval.duo import duo_gates, duo_surrogate
from circuits.retrieval.haystack import needle_prompts
from circuits.retrieval.methods import METHODS, rankings, retrieval_heads
from circuits.retrieval.needle import needle_heads
from circuits.retrieval.needles import NEEDLES, Needle, NeedlePrompt
from circuits.retrieval.qrhead import QRExample, qr_examples, qr_heads
from circuits.retrieval.random_haystack import random_needle_prompts
from circuits.retrieval.razor import razor_heads
from interp.agreement import Agreement

__all__ = [
    "METHODS",
    "NEEDLES",
    "Agreement",
    "Needle",
    "NeedlePrompt",
    "QRExample",
    "agreement",
    "duo_gates",
    "duo_surrogate",
    "needle_heads",
    "needle_prompts",
    "qr_examples",
    "qr_heads",
    "random_needle_prompts",
    "rankings",
    "razor_heads",
    "retrieval_heads",
]
