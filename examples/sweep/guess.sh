# Gradient descent from 0 to 3 in twenty steps, with a little noise that depends on the seed.
echo "learning rate $1, seed $2"
awk -v lr="$1" -v seed="$2" 'BEGIN {
    srand(1000 * (seed + 1))
    for (i = 0; i < 20; i++) x += lr * (2 * (3 - x) + rand() - 0.5)
    d = x < 3 ? 3 - x : x - 3
    printf "{\"distance\": %.4f}\n", d
}' > "$3"
