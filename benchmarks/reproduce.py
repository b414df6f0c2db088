"""The tables and figures of GLINT-RU's paper (KDD 2025, arXiv:2406.10244), run again.

    python benchmarks/reproduce.py table2 --dataset=amazon-beauty           # every model, 3 seeds
    python benchmarks/reproduce.py table2 --dataset=ml-100k --models=all    # on the data that RecBole carries
    python benchmarks/reproduce.py table9 --jobs=2 --budget=2h
    python benchmarks/reproduce.py table2 --report                          # runs nothing: the results so far
    python benchmarks/reproduce.py table2 --report --partial                # also of unfinished trainings

table1 statistics of the data; table2 accuracy; table3 efficiency; table4, table8, table9 ablations (ML-1M, Video Games,
Beauty); table6 activations of the gate; table7, figure6 layers; figure2 mixing weights; figure3, figure4 kernel size;
figure5 hidden size; variations: what the published code and the text leave open, one at a time. table3 is
`benchmarks/efficiency.py`, takes its options, and with --report runs nothing.

Each combination of model, data set and seed is a cell. Its result is a JSON file in `benchmarks/results/cells/`, and no
cell is run twice; a command that was killed continues where it was, even inside a cell. Checkpoints are kept outside of
the project. A cell that fails is reported at the end and does not stop the others.

Options:
  --dataset=NAME     by default the paper's data set for the table
  --protocol=NAME    whose settings to use, for a data set of another name (ml-1m-datorder: --protocol=ml-1m)
  --data_path=DIR    folder with NAME/NAME.inter; by default ./dataset, where RecBole puts its downloads
  --models=A,B|all   the models of table2 and figure5; by default the paper's
  --values=3,5       the kernel sizes, hidden sizes or layers of a figure
  --seeds=3          the number of seeds, counted up from the protocol's or from --seed=N
  --key=value        a RecBole setting for every cell, part of the cell's name; --MODEL.key=value for one model
  --jobs=N           cells in parallel; on the first of several GPUs, unless CUDA_VISIBLE_DEVICES names another
  --threads=N        for each cell, by default the cores divided by --jobs; a resumed cell keeps the number of its
                     first epoch, on which the order of its sums depends
  --budget=2h        starts no cell after that time (s, m, h)
  --report           runs nothing, reports the existing results
  --partial          before the report, tests the best epoch so far of unfinished trainings with untested epochs;
                     they can still be resumed. With --report, nothing is trained before that
  --retest           trains nothing, but tests cells with a result again, from the last epoch in the scratch folder
  --reading=NAME     the reading that the report compares with the paper: validation, validation_fixed, test, fixed,
                     unseen, trained, uniform or full
  --replace          runs cells whose settings have changed since again, from the first epoch
  --scratch=DIR      for checkpoints;  --results=DIR  for results
"""

import sys

from reproduction.command import main

from recbole_glintru.allocator import keep_freed_memory

if __name__ == "__main__":
    if sys.argv[1:2] != ["table3"]:  # it measures memory, and has an option for this
        keep_freed_memory()  # as run_recbole.py does; the same for all models
    sys.exit(main(sys.argv[1:], __doc__))
