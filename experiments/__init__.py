"""Runnable studies: the pipeline, the command ``lpa``, study files and the log of results."""
