"""The commands behind every number of the project; each says in its first lines how it is run.

speed/    how fast: memory alone, training by phase and end to end, environments, processes, the cost of the tape
studies/  how good: agents that are trained, or played, and what was found, as CSV files in results/
report/   the pages and figures made of those files, their statistics and prose
tools/    for developers: publish an agent, compare two commits by digests
"""
