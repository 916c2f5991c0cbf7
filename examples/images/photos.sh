#!/bin/sh
# Generates photos: two classes of pictures of 24 x 20 pixels, as PPM files.
# Usage: photos.sh FOLDER
set -eu
for part in train val; do
    for class in stripes dots; do
        mkdir -p "$1/$part/$class"
        i=0
        while [ $i -lt 20 ]; do
            awk -v class="$class" -v seed="$part$class$i" 'BEGIN {
                for (j = 1; j <= length(seed); j++) n = n * 31 + index("0123456789abcdefghijklmnopqrstuvwxyz", substr(seed, j, 1))
                srand(n % 65521)
                shift = int(rand() * 8); red = 128 + int(rand() * 127)
                print "P3 24 20 255"
                for (y = 0; y < 20; y++) for (x = 0; x < 24; x++) {
                    on = class == "stripes" ? (x + shift) % 8 < 4 : (x + shift) % 6 < 3 && y % 6 < 3
                    print on ? red : 20, on ? 90 : 40, int(y * 12)
                }
            }' > "$1/$part/$class/$i.ppm"
            i=$((i + 1))
        done
    done
done
