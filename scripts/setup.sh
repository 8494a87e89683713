# Sourced by quickstart.sh and test.sh: makes the virtual environment, installs what is missing.
#
#   setup REQUIREMENTS...      sets $PYTHON to the environment's interpreter
#
# Nothing is done twice: a stamp in the environment says which requirements it holds.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv

venv_python() {
    if [ -x "$VENV/Scripts/python.exe" ]; then echo "$VENV/Scripts/python.exe"; else echo "$VENV/bin/python"; fi
}

system_python() {
    local name
    for name in python3 python python3.14 python3.13 python3.12 python3.11 python3.10; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "No Python 3.10 or newer was found: install one and run this again" >&2
    return 1
}

setup() {
    local python stamp file
    if [ ! -x "$(venv_python)" ]; then
        python=$(system_python) || exit 1
        echo "Making the virtual environment $VENV"
        "$python" -m venv "$VENV" || exit 1
    fi
    PYTHON=$(venv_python)
    for file in "$@"; do
        stamp="$VENV/installed-$(basename "$(dirname "$file")")-$(basename "$file")"
        if ! cmp -s "$file" "$stamp"; then
            echo "Installing $file (torch with CUDA is about 5 GB; minutes)"
            "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$file" || exit 1
            cp "$file" "$stamp"
        fi
    done
}
