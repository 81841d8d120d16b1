"""The rules: each reads a curve and a plan, and answers with one rate; see ``findlr.analysis.rules``."""

from findlr.analysis.rules import RULES, Rule, Suggestion, article, minimum, quick, slide, steep, valley

__all__ = ["RULES", "Rule", "Suggestion", "article", "minimum", "quick", "slide", "steep", "valley"]
