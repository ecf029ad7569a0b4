#!/usr/bin/env bash
# Run the tests as other processors would: PyTorch and MKL choose their kernels by the instructions that a processor
# has, and sums come out differently in the last bits. No status and no result may depend on them.
#
#   processors.sh [KERNELS:MKL ...] -- [pytest arguments]
#
# KERNELS is default, avx2 or avx512 (more than this processor has is taken as what it has), MKL is AVX2, SSE4_2 or
# empty for what it chooses itself; by default all nine pairs. One line for each; ends with 0 if all tests passed in all.
set -u
pairs=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do pairs+=("$1"); shift; done
[ $# -gt 0 ] && shift
[ ${#pairs[@]} -gt 0 ] || for kernels in default avx2 avx512; do
    for mkl in "" AVX2 SSE4_2; do pairs+=("$kernels:$mkl"); done
done

log=$(mktemp)
trap 'rm -f "$log"' EXIT
bad=0
for pair in "${pairs[@]}"; do
    kernels=${pair%%:*} mkl=${pair#*:}
    settings=("ATEN_CPU_CAPABILITY=$kernels" ${mkl:+"MKL_ENABLE_INSTRUCTIONS=$mkl"})
    if env "${settings[@]}" "${PYTHON:-python3}" -m pytest -q -n 2 "$@" >"$log" 2>&1; then
        echo "passed  ${settings[*]}: $(tail -n 1 "$log")"
    else
        bad=$((bad + 1))
        echo "FAILED  ${settings[*]}"
        grep -E "^(FAILED|ERROR)" "$log" || tail -n 20 "$log"
    fi
done
[ "$bad" -eq 0 ]
