"""The tables and figures of GLINT-RU's paper (KDD 2025, arXiv:2406.10244), run again.

    python benchmarks/reproduce.py table2 --dataset=amazon-beauty           # every model, 3 seeds
    python benchmarks/reproduce.py table2 --dataset=ml-100k --models=all    # on the data that RecBole carries
    python benchmarks/reproduce.py table9 --jobs=2 --budget=2h
    python benchmarks/reproduce.py table2 --report                          # runs nothing: the results so far
    python benchmarks/reproduce.py table2 --report --partial                # and those of trainings in the middle

table1 statistics of the data; table2 accuracy; table3 efficiency; table4, table8, table9 ablations (ML-1M, Video Games,
Beauty); table6 activations of the gate; table7, figure6 layers; figure2 mixing weights; figure3, figure4 kernel size;
figure5 hidden size; variations: what the published code and the text leave open, one at a time. table3 is
`benchmarks/efficiency.py`, takes its options, and with --report runs nothing.

Each model, data set and seed is a cell. Its result is a JSON file in `benchmarks/results/cells/`, which is never run
twice; a command that was killed goes on where it was, inside a cell too. Checkpoints are kept outside of the project.
A cell that fails is told of at the end and keeps no other from running.

Options:
  --dataset=NAME     the paper's data set of the table unless given
  --protocol=NAME    whose settings are taken, for a data set of another name (ml-1m-datorder: --protocol=ml-1m)
  --data_path=DIR    folder that holds NAME/NAME.inter; ./dataset unless given, where RecBole downloads to
  --models=A,B|all   the models of table2 and figure5: the paper's unless given
  --values=3,5       the kernel sizes, hidden sizes or layers of a figure
  --seeds=3          how many, counted up from the protocol's, or from --seed=N
  --key=value        a setting of RecBole's for every cell, part of the cell's name; --MODEL.key=value for one model
  --jobs=N           cells side by side; on the first of several GPUs, unless CUDA_VISIBLE_DEVICES names another
  --threads=N        of each cell, all cores unless given; a cell that is carried on keeps the number of its first
                     epoch, on which the order of its sums depends
  --budget=2h        starts no cell after that time (s, m, h)
  --report           runs nothing, reports what is there
  --partial          before the report, tests what is in the middle of its training and has epochs that were not tested
                     yet: the best epoch so far; the training can go on. With --report it trains nothing before
  --retest           trains nothing, but tests again what has a result, from its last epoch in the scratch folder
  --reading=NAME     what the report compares with the paper: validation, validation_fixed, test, fixed, unseen,
                     trained, uniform or full
  --replace          run cells again whose settings have changed since, from the first epoch
  --scratch=DIR      for checkpoints;  --results=DIR  for results
"""

import sys

from reproduction.command import main

from recbole_glintru.allocator import keep_freed_memory

if __name__ == "__main__":
    if sys.argv[1:2] != ["table3"]:  # it measures memory, and has an option for that
        keep_freed_memory()  # as run_recbole.py does: for all models alike
    sys.exit(main(sys.argv[1:], __doc__))
