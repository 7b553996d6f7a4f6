;; Two memories of 600 MiB each: under a limit of 1 GiB the second is the one that does not fit.
;; Expected: out_of_memory, whether the job's limit or the worker's own refuses it first.
(module
  (memory (export "memory") 9600)
  (memory 9600)
  (func (export "_start")))
