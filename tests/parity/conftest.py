"""The recorder runs in the real fastai's environment only."""

collect_ignore = ["record_fastai.py"]
