"""The columns of what blocks of a network know of a tensor, and its entries alone do not tell."""

from __future__ import annotations

NOTES = {
    "branch_share": "what a branch, after its scale, has of the square of the sum that it is part "
    "of: 0 adds nothing, near 1 what was there before is lost",
    "pair_correlation": "kernel of two tokens of a sequence over q: 1 when all tokens look alike",
    "participation_ratio": "directions that the tokens of a sequence take, (tr K)^2 / tr K^2 of "
    "their kernel K: 1 to their number",
    "attention_entropy": "entropy of a token's weights over its largest, log of the tokens that it "
    "may attend to: 1 attends to all alike, 0 to one; without tokens that may attend to one alone, "
    "as the first of causal attention",
    "concentration": "sum of the squares of a token's weights: 1 / tokens attends to all alike, 1 "
    "to one",
}
"""Columns and their meaning; those alone are in a table that its networks have."""
