#!/usr/bin/env bash
# The web page in a real browser, without a screen: scripts/browser.sh [FOLDER FOR SCREENSHOTS]
# It needs Debian's `chromium`. Lists, filters, compares, follows a running run, and looks for errors on the console.
set -euo pipefail
cd "$(dirname "$0")/.."
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || { echo "install chromium first" >&2; exit 2; }
folder=$(mktemp -d)
pictures=${1:-$folder}
mkdir -p "$pictures"
server='' runner=''
stop() {
    [ -z "$runner" ] || kill -9 "$runner" 2>/dev/null || true
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -r "$folder"
}
trap stop EXIT

cargo build --quiet
zoo=(target/debug/resnet-zoo --registry "$folder/registry.sqlite3")
tiny=("${zoo[@]}" run experiments/resnet34_ls.yaml --json --set model=cifar_resnet20 --set weights=scratch
    --set "data.source={embedded: {train: 320, val: 100}}" --set batch_size=32)
"${tiny[@]}" --set name=first --set epochs=2 --set label_smoothing=0 >"$folder/first.jsonl"
"${tiny[@]}" --set name=second --set epochs=2 >"$folder/second.jsonl"
mkfifo "$folder/address"
"${zoo[@]}" serve --port 0 --json >"$folder/address" &
server=$!
read -r line <"$folder/address"
site=$(sed -E 's/.*"address":"([^"]*)".*/\1/' <<<"$line")

# The page as it is after its script has run, and what the console says.
browse() {
    "$browser" --headless --no-sandbox --disable-gpu --enable-logging=stderr --hide-scrollbars --virtual-time-budget=3000 \
        --window-size="${size:-1280,2400}" --user-data-dir="$folder/profile" "$@" 2>"$folder/log"
    if grep CONSOLE "$folder/log"; then
        echo "the page has errors" >&2
        exit 1
    fi
}
page() { browse --dump-dom "$1" >"$folder/page.html"; }
sees() { grep -qE -- "$1" "$folder/page.html" || { echo "the page does not show $1" >&2; exit 1; }; }
lacks() { ! grep -qE -- "$1" "$folder/page.html" || { echo "the page shows $1" >&2; exit 1; }; }
steps() { grep -oE '<dt>steps</dt><dd>[0-9]+' "$folder/page.html" | grep -oE '[0-9]+$'; }

echo "list"
page "$site/"
sees 'data-drawn="runs"'; sees '>first '; sees '>second '; sees 'class="state COMPLETED"'

echo "filter"
page "$site/#/runs?filter=config.label_smoothing+%3D+0"
sees '>first '; lacks '>second '
page "$site/#/runs?filter=val.top2+%3E+0.5"
sees 'class="error"'; sees 'did you mean'; sees '\^'

echo "compare"
page "$site/#/story?runs=first,second"
sees 'data-drawn="story"'; sees 'id="settings"'; sees '>label_smoothing<'; sees 'data-metric="val.top1"'; sees '<path class="curve"'
size=1280,3600 browse --screenshot="$pictures/compare.png" "$site/#/story?runs=first,second" >/dev/null
size=400,2400 browse --screenshot="$pictures/phone.png" "$site/#/story?runs=first,second" >/dev/null
size=1280,900 browse --screenshot="$pictures/list.png" "$site/" >/dev/null

echo "follow a running run"
"${tiny[@]}" --set name=running --set epochs=4000 >"$folder/running.jsonl" &
runner=$!
for _ in $(seq 300); do
    ! "${zoo[@]}" runs ls 'name = "running" and steps > 5' --json | grep -q RUNNING || break
    sleep 0.2
done
page "$site/#/story?runs=running"
sees 'class="state RUNNING"'; sees '<dt>left</dt>'; sees 'data-turn="[2-9]'
before=$(steps)
sleep 2
page "$site/#/story?runs=running"
after=$(steps)
[ "$after" -gt "$before" ] || { echo "no progress: $before, then $after" >&2; exit 1; }
kill -9 "$runner"
wait "$runner" 2>/dev/null || true
runner=''
page "$site/#/story?runs=running"
sees 'class="state CRASHED"'

echo "report"
"${zoo[@]}" report first second -o "$folder/report.html" >/dev/null
page "file://$folder/report.html"
sees 'data-drawn="report"'; sees 'Where it errs'; sees 'class="matrix"'; sees 'Architecture'; sees 'Worst mistakes'
size=1280,6000 browse --screenshot="$pictures/report.png" "file://$folder/report.html" >/dev/null
size=1280,6000 browse --force-dark-mode --screenshot="$pictures/dark.png" "file://$folder/report.html" >/dev/null
browse --print-to-pdf="$pictures/report.pdf" "file://$folder/report.html" >/dev/null
echo "the page works in $("$browser" --version)"
