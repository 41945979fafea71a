# Sourced by the other scripts: makes the virtual environment with both packages, once.
#
# It lies in .venv beside this folder. A changed constraints.txt or pyproject.toml makes it anew
# up to date; nothing outside of the repository is touched.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
python="$venv/bin/python"

# The first Python that the packager runs on, 3.11 to 3.13.
find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Trimtab needs Python 3.11, 3.12 or 3.13 with the venv module" >&2
    echo "(on Debian and Ubuntu: apt install python3-venv)" >&2
    exit 1
}

# What the environment was made from; a difference makes pip run again.
fingerprint() {
    cat "$root/constraints.txt" "$root/pyproject.toml" "$root"/*/pyproject.toml | sha256sum
}

prepare() {
    if [ "$(cat "$venv/.fingerprint" 2>/dev/null)" = "$(fingerprint)" ]; then
        return
    fi
    echo "setting up $venv (2.2 GB on disk, once)" >&2
    [ -x "$python" ] || "$(find_python)" -m venv "$venv"
    "$python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' >&2
    "$python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$root/constraints.txt" \
        --editable "$root/agent[tflite,onnxruntime,openvino]" --editable "$root/packager" \
        --group "$root/pyproject.toml:test" --group "$root/pyproject.toml:check" >&2
    fingerprint > "$venv/.fingerprint"
}

prepare
export PATH="$venv/bin:$PATH"
cd "$root"
