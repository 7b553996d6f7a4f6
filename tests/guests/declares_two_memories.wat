;; Two memories of 10 MiB each: each is small, their sum need not be.
;; Expected: out_of_memory under a limit of 16 MiB, although neither is above it.
(module
  (memory (export "memory") 160)
  (memory 160)
  (func (export "_start")))
