// The CUDA kernels around the translated battle rules (see cuda.py).
//
// Defined before this file is compiled: the sizes of the scenario (NUM_AGENTS to STATE_SIZE), the
// rows of a battle's blocks (UNIT_ROWS, HOT_ROWS, WORLD_SIZE, ...), how a kernel divides its
// threads (LANES, BATTLES_PER_WARP, WARPS, BATTLES), and KERNEL_...: the kernel to compile.
//
// A battle is played by LANES neighbouring threads of a warp. All battles of a block pass from one
// phase to the next together (MEET), so that a block needs the machine code of one phase at a time.

namespace smacv2 {

// The units of a battle: the rows of every tick lie in shared memory, the others stay in global.
struct Units {
    int32* hot;
    int32* all;

    DEVICE int32& operator()(int32 row, int32 i) const {
        return row < HOT_ROWS ? hot[row * NUM_UNITS + i] : all[row * NUM_UNITS + i];
    }
    DEVICE int32 shape(int32 axis) const { return axis == 0 ? UNIT_ROWS : NUM_UNITS; }
};

constexpr int32 THREADS = 32 * WARPS;
constexpr int32 HOT_SIZE = HOT_ROWS * NUM_UNITS;
constexpr int32 WORLD_STRIDE = WORLD_SIZE | 1;

// Distance between the hot rows of two battles: lanes of neighbouring battles use other banks.
constexpr int32 HOT_STRIDE = HOT_SIZE + (LANES - HOT_SIZE % 32 + 32) % 32;

using AllUnits = Table<int32, UNIT_ROWS, NUM_UNITS>;
using Kinds = Table<int32, KIND_ROWS, KIND_SIZE>;
using Sights = Table<int8, NUM_AGENTS, NUM_ENEMIES>;
using Actions = View1<const int32>;
using Rules = View1<const int32>;  // never read: the values are part of the translation
using Teams = Table<const int32, TEAM_ROWS, TEAM_SIZE>;
using Points = Table<const int32, POINT_ROWS, POINT_SIZE>;
using Spiral = Table<const int32, SPIRAL_ROWS, 2>;
using Cone = Table<const int32, CONE_ROWS, 2>;
using Pathing = Table<const int8, GRID_WIDTH, GRID_HEIGHT>;
using Mask = Table<int8, NUM_AGENTS, NUM_ACTIONS>;
using Obs = Table<float, NUM_AGENTS, OBS_SIZE>;

// The arrays in global memory, battle first; in the order of CudaDriver's arguments.
struct Arrays {
    const int32* commands;
    int32* units;
    int32* worlds;
    int8* sights;
    const int32* actions;
    float* obs;
    float* state;
    int8* mask;
    float* reward;
    bool* terminated;
    bool* truncated;
    const int32* kinds;
    const int32* teams;
    const int32* points;
    const int32* spiral;
    const int32* cone;
    const int8* pathing;
    int64 num_battles;

    DEVICE int32* units_of(int64 b) const { return units + b * UNIT_ROWS * NUM_UNITS; }
    DEVICE int32* world_of(int64 b) const { return worlds + b * WORLD_SIZE; }
    DEVICE Sights sights_of(int64 b) const {
        return {sights + b * NUM_AGENTS * NUM_ENEMIES};
    }
    DEVICE Mask mask_of(int64 b) const { return {mask + b * NUM_AGENTS * NUM_ACTIONS}; }
    DEVICE Obs obs_of(int64 b) const { return {obs + b * NUM_AGENTS * OBS_SIZE}; }
    DEVICE View1<float> state_of(int64 b) const {
        return {state + b * STATE_SIZE, STATE_SIZE};
    }
};

// What a block keeps in shared memory: battles that are played, or views of battles.
struct Shared {
    int32 kinds[KIND_ROWS * KIND_SIZE];
#if defined(KERNEL_SHOW)
    float obs[BATTLES * NUM_AGENTS * OBS_SIZE];
    float state[BATTLES * STATE_SIZE];
#else
    int32 worlds[BATTLES * WORLD_STRIDE];
    int32 hot[BATTLES * HOT_STRIDE];
#endif
};
static_assert(sizeof(Shared) == SHARED_BYTES, "cuda.py reserves another size");

DEVICE Shared& shared_memory() {
    extern __shared__ int32 memory[];
    return *reinterpret_cast<Shared*>(memory);
}

#if defined(KERNEL_PLAY) || defined(KERNEL_RESET)

// The battle and the lane that a thread works on.
struct Seat {
    int32 place;   // battle of the block
    int32 battle;  // battle of the batch
    int32 lane;    // lane of the battle; NUM_UNITS for a thread that only waits for the others

    DEVICE Seat(const Arrays& arrays, int32 command) {
        const int32 thread = threadIdx.x % 32;
        const bool seated = thread < LANES * BATTLES_PER_WARP;
        place = threadIdx.x / 32 * BATTLES_PER_WARP + (seated ? thread / LANES : 0);
        battle = blockIdx.x * BATTLES + place;
        const bool plays = seated && battle < arrays.num_battles &&
            arrays.commands[battle] == command;
        lane = plays ? thread % LANES : NUM_UNITS;
    }
    DEVICE bool plays() const { return lane < NUM_UNITS; }
    DEVICE Units units(const Arrays& arrays) const {
        return {shared_memory().hot + place * HOT_STRIDE, arrays.units_of(battle)};
    }
    DEVICE View1<int32> world() const {
        return {shared_memory().worlds + place * WORLD_STRIDE, WORLD_SIZE};
    }

    // Copy the hot rows and the world from global to shared memory, or back.
    template <bool IN> DEVICE void copy(const Arrays& arrays) const {
        if (!plays()) return;
        const Units unit = units(arrays);
        int32* const world_here = world().data;
        int32* const world_there = arrays.world_of(battle);
        for (int32 k = lane; k < HOT_SIZE; k += LANES) {
            IN ? unit.hot[k] = unit.all[k] : unit.all[k] = unit.hot[k];
        }
        for (int32 k = lane; k < WORLD_SIZE; k += LANES) {
            IN ? world_here[k] = world_there[k] : world_there[k] = world_here[k];
        }
    }

    DEVICE void report(const Arrays& arrays, double reward) const {
        if (lane != 0) return;
        const bool truncated = world()(OUTCOME) == OUTCOME_TIMEOUT;
        arrays.reward[battle] = static_cast<float>(reward);
        arrays.truncated[battle] = truncated;
        arrays.terminated[battle] = world()(OVER) != 0 && !truncated;
    }
};

#endif

DEVICE Kinds copy_kinds(const Arrays& arrays) {
    int32* const kinds = shared_memory().kinds;
    for (int32 k = threadIdx.x; k < KIND_ROWS * KIND_SIZE; k += THREADS) kinds[k] = arrays.kinds[k];
    return {kinds};
}

}  // namespace smacv2

using namespace smacv2;

#if defined(KERNEL_PLAY)

// Play one step of every battle whose command is to step.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) run(const Arrays arrays) {
    const Seat seat(arrays, STEP_COMMAND);
    const Kinds kinds = copy_kinds(arrays);
    seat.copy<true>(arrays);
    __syncthreads();
    const int64 b = seat.plays() ? seat.battle : 0;
    const double reward = play_step(
        seat.units(arrays), seat.world(), kinds, Rules{}, Cone{arrays.cone}, arrays.mask_of(b),
        Actions{arrays.actions + b * NUM_AGENTS, NUM_AGENTS}, seat.lane, LANES);
    seat.copy<false>(arrays);
    seat.report(arrays, reward);
}

#elif defined(KERNEL_RESET)

// Start the next episode of every battle whose command is to reset. A battle has a warp of its own.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) run(const Arrays arrays) {
    const Seat seat(arrays, RESET_COMMAND);
    if (__syncthreads_or(seat.plays()) == 0) return;
    const Kinds kinds = copy_kinds(arrays);
    seat.copy<true>(arrays);
    __syncthreads();
    if (!seat.plays()) return;
    start_episode(
        seat.units(arrays), seat.world(), arrays.sights_of(seat.battle), kinds, Rules{},
        Teams{arrays.teams}, Points{arrays.points}, Spiral{arrays.spiral}, Pathing{arrays.pathing},
        seat.lane, LANES);
    seat.copy<false>(arrays);
    seat.report(arrays, 0.0);
}

#elif defined(KERNEL_SHOW)

// Show every battle, whatever its command: a battle that is left alone looks as before. First come
// the entries of masks, which observations repeat. Rows are collected in
// shared memory, because a thread that wrote its row to global memory would write a few bytes here
// and a few there.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) run(const Arrays arrays) {
    Shared& shared = shared_memory();
    const Kinds kinds = copy_kinds(arrays);
    const int64 first = static_cast<int64>(blockIdx.x) * BATTLES;
    const int32 battles = smaller<int64>(BATTLES, arrays.num_battles - first);
    __syncthreads();
    constexpr int32 ENTRIES = NUM_AGENTS * NUM_ACTIONS;
    for (int32 k = threadIdx.x; k < battles * ENTRIES; k += THREADS) {
        const int32 entry = k % ENTRIES;
        arrays.mask[first * ENTRIES + k] = is_available(
            AllUnits{arrays.units_of(first + k / ENTRIES)}, kinds, Rules{}, Cone{arrays.cone},
            Pathing{arrays.pathing}, entry / NUM_ACTIONS, entry % NUM_ACTIONS);
    }
    __syncthreads();
    const int32 items = count_items(Rules{});
    for (int32 k = threadIdx.x; k < battles * items; k += THREADS) {
        const int32 place = k / items;
        const int64 b = first + place;
        write_item(
            AllUnits{arrays.units_of(b)}, View1<int32>{arrays.world_of(b), WORLD_SIZE},
            arrays.sights_of(b), kinds, Rules{}, Cone{arrays.cone}, Pathing{arrays.pathing},
            arrays.mask_of(b), Obs{shared.obs + place * NUM_AGENTS * OBS_SIZE},
            View1<float>{shared.state + place * STATE_SIZE, STATE_SIZE}, k % items);
    }
    __syncthreads();
    constexpr int32 COLUMNS = NUM_AGENTS * OBS_SIZE;
    float* const obs = arrays.obs + first * COLUMNS;
    float* const state = arrays.state + first * STATE_SIZE;
    for (int32 k = threadIdx.x; k < battles * COLUMNS; k += THREADS) obs[k] = shared.obs[k];
    for (int32 k = threadIdx.x; k < battles * STATE_SIZE; k += THREADS) state[k] = shared.state[k];
}

#elif defined(KERNEL_SHOW_IN_TURN)

// Show a battle per thread, for options under which an agent's view depends on other agents' views.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) run(const Arrays arrays) {
    const Kinds kinds = copy_kinds(arrays);
    __syncthreads();
    const int64 b = static_cast<int64>(blockIdx.x) * THREADS + threadIdx.x;
    if (b >= arrays.num_battles || arrays.commands[b] == LEAVE_COMMAND) return;
    show(
        AllUnits{arrays.units_of(b)},
        View1<int32>{arrays.world_of(b), WORLD_SIZE}, arrays.sights_of(b), kinds, Rules{},
        Cone{arrays.cone}, Pathing{arrays.pathing}, arrays.obs_of(b), arrays.state_of(b),
        arrays.mask_of(b));
}

#endif
